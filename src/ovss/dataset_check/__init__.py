"""``ovss dataset check``: is a data set as its entry in ``datasets.yaml`` says, and what does it look like?"""

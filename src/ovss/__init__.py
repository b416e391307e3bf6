"""ovss """

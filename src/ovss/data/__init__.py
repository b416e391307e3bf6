"""ovss data"""

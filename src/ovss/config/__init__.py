"""ovss config"""

"""ovss"""

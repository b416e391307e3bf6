"""ovss methods"""

"""ovss plan"""

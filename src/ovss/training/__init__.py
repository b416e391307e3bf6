"""ovss training"""

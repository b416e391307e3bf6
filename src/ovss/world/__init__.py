"""ovss world"""

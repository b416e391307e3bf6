"""ovss models"""

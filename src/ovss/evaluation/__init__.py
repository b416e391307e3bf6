"""ovss evaluation"""

"""ovss report"""

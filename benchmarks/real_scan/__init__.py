"""Does a network that saw only synthetic volumes understand a real scan?"""

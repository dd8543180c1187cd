"""``brainloom benchmark speed``: how long one volume takes, side by side with other packages, on one thread.

Every row is timed in a process of its own (``child.py``), so that neither threads nor memory of one row touch another.
"""

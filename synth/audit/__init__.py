"""What a synthetic corpus is worth: its fidelity and diversity, whether it listens to what was asked, whether it copies."""

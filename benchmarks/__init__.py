"""benchmarks: what generators and weights were worth — experiments gathered into one page."""

"""A matrix that runs in seconds."""

PROFILE = """kind: matrix
sources: {blobs: {class_path: pretrain.testing.Blobs}}
people: {class_path: pretrain.testing.Blobs}
count: 40
people_count: 24
backbones: [sfcn_s]
objectives: [supervised]
steps: 2
batch_size: 8
fractions: [100]
seeds: 1
folds: 2
epochs: 1
workers: 0
"""

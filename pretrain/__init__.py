"""pretrain: streams a corpus into ViT and CNN backbones and keeps what they learnt as weights with a pedigree."""

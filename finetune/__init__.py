"""finetune: takes weights through Alzheimer's, Parkinson's and brain-age tasks on a cohort."""

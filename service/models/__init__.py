"""Models: found, loaded and patched, one runner for each reduction over one copy of the weights.

It must not know requests, batches or metrics. timm and torchvision are imported in
`timm_models.py` only.
"""

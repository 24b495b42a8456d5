"""Finds, loads and patches models: one variant for each reduction over one copy of the weights.

This package must not know requests, batches or metrics. timm and torchvision are imported in
`timm_models.py` only.
"""

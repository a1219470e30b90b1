"""Budgeted pruning by differentiable sparsity allocation."""

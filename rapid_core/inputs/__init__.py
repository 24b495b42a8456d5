"""What enters the blocks: copies of a model that share its weights, for images of another size."""

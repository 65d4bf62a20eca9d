"""Sets of clips and the batches made of them."""

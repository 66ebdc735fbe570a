"""A run over many images: their reading, the store of results, the pipeline, its progress, and the cluster."""

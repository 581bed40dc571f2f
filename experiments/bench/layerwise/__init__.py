"""How much a layer loses under each layer-wise method."""

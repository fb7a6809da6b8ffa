"""CSL kernels of our own, with what runs and checks them."""

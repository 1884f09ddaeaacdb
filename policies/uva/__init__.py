"""UVA, the Unified Video Action model (Li et al. 2025): actions, videos, and both ways between them."""

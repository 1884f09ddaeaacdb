"""The contract, the data, the backbones, the one trainer and the command line."""

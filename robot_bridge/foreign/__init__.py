"""Other people's harnesses and model servers: their protocols, and what their numbers mean."""

"""Representations of video: learned from people, kept for robots."""

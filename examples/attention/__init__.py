"""Attention in many forms."""

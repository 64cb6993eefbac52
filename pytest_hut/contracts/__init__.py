"""The agreed JSON documents as models."""

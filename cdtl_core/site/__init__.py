"""A hospital's side, run inside Flower's ClientApp."""

"""The ladder: encoders as of earlier instants, how they are trained, and what they foresee."""

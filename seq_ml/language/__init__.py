"""Language: pretrained text models."""

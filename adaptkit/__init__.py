"""Parameter-efficient adaptation of ESPnet Conformer speech recognisers."""

"""anatomy: label maps and the people in them — sources, label table, age / sex / diagnosis morphometry, displacement."""

"""Other packages' public surfaces over this package's parts. Nothing else in anymask imports them."""

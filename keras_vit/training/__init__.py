"""What training needs: data sources, augmentation, batches."""

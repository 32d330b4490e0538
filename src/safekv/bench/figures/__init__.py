"""Pictures of stored records, drawn with Matplotlib."""

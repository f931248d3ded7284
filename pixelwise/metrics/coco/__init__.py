"""Average precision of instances and key points, as COCO and LVIS define it."""

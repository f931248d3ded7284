"""Region similarity and boundary accuracy of objects in video, as DAVIS defines them."""

"""Published and trivial predictors that every figure of ours is shown beside."""

"""Each class of a class-conditional DDPM on CIFAR-10 erased, by ours and by peers: the paper's second setting."""

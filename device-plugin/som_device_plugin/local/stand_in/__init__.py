"""What stands in for kubelet, scheduler and admission."""

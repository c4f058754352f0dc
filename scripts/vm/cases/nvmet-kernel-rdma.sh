# What: NVMe/RDMA over rxe, which host_driver=auto leaves to the kernel: every byte written, read back and compared
# Target: kernel (by us)
# Host: kernel (by us)
# Features: libnvme
# Needs: rdma
# Kernel: qemu
modules crc32_generic dummy rdma_rxe nvmet-rdma nvme-rdma
# rxe needs a device with a hardware address, which lo lacks.
ip link add rdma0 type dummy
ip address add 10.99.0.1/24 dev rdma0
ip link set rdma0 up
rdma link add rxe0 type rxe netdev rdma0
wait_for 10 'the RDMA device is up' sh -c 'rdma link show | grep -q "rxe0/1 state ACTIVE"'
a=$(file a 8)
for size in 4k 64k 1M 4099; do
    say "$size"
    loopback "$a" --trtype=rdma --traddr=10.99.0.1 --target_driver=nvmet --host_driver=auto --block_size=$size
done
contains "$(dmesg)" 'nvmet_rdma: enabling port'
contains "$(dmesg)" 'addr 10.99.0.1:'

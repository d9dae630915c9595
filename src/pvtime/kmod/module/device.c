// SPDX-License-Identifier: GPL-2.0-or-later
/* The device /dev/pvtime: memory for structures that is the kernel's, and the vCPUs that it is for. */
#include <linux/file.h>
#include <linux/magic.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "pvtime.h"

#define ORDER get_order(PVTIME_REGION)

struct memory {
	struct page *pages; /* each with a reference count of its own */
	bool has_guests;    /* vCPUs whose guest provides the structure */
	struct mutex lock;
};

static int open(struct inode *inode, struct file *file)
{
	struct memory *memory = kzalloc(sizeof(*memory), GFP_KERNEL);

	if (!memory)
		return -ENOMEM;
	memory->pages = alloc_pages(GFP_KERNEL_ACCOUNT | __GFP_ZERO, ORDER);
	if (!memory->pages) {
		kfree(memory);
		return -ENOMEM;
	}
	split_page(memory->pages, ORDER);
	mutex_init(&memory->lock);
	file->private_data = memory;
	return 0;
}

static int release(struct inode *inode, struct file *file)
{
	struct memory *memory = file->private_data;
	int index;

	pvtime_detach_all(file);
	if (memory->has_guests)
		pvtime_probe_guest_calls(false);
	for (index = 0; index < 1 << ORDER; index++)
		put_page(memory->pages + index); /* a guest's page table may still have it */
	kfree(memory);
	return 0;
}

static vm_fault_t fault(struct vm_fault *fault)
{
	struct memory *memory = fault->vma->vm_file->private_data;

	if (fault->pgoff >= 1 << ORDER)
		return VM_FAULT_SIGBUS;
	fault->page = memory->pages + fault->pgoff;
	get_page(fault->page);
	return 0;
}

static const struct vm_operations_struct vm_operations = { .fault = fault };

static int map(struct file *file, struct vm_area_struct *vma)
{
	if (!(vma->vm_flags & VM_SHARED) || vma->vm_pgoff + vma_pages(vma) > 1 << ORDER)
		return -EINVAL;
	vma->vm_flags |= VM_DONTEXPAND | VM_DONTCOPY;
	vma->vm_ops = &vm_operations;
	return 0;
}

/* A vCPU's descriptor is known by the name that KVM gives to it, which no user can choose. */
static struct kvm_vcpu *vcpu_of(struct file *file)
{
	if (file->f_inode->i_sb->s_magic != ANON_INODE_FS_MAGIC ||
	    strncmp(file->f_path.dentry->d_name.name, "kvm-vcpu:", 9))
		return NULL;
	return file->private_data;
}

static int attach(struct memory *memory, struct file *file, struct kvm_vcpu *vcpu, const struct pvtime_attach *how)
{
	int error = 0;

	mutex_lock(&memory->lock);
	if (how->placement == PVTIME_GUEST && !memory->has_guests) {
		error = pvtime_probe_guest_calls(true);
		memory->has_guests = !error;
	}
	if (!error)
		error = pvtime_attach(vcpu, how, file, page_address(memory->pages));
	mutex_unlock(&memory->lock);
	return error;
}

static long ioctl(struct file *file, unsigned int request, unsigned long argument)
{
	union {
		s32 vcpu_fd; /* the first field of each */
		struct pvtime_attach attach;
		struct pvtime_registered registered;
	} with;
	struct kvm_vcpu *vcpu;
	struct fd vcpu_file;
	int error = -EBADF;

	if (request != PVTIME_ATTACH && request != PVTIME_REGISTERED)
		return -ENOTTY;
	if (copy_from_user(&with, (void __user *)argument, _IOC_SIZE(request)))
		return -EFAULT;
	vcpu_file = fdget(with.vcpu_fd);
	vcpu = vcpu_file.file ? vcpu_of(vcpu_file.file) : NULL;
	if (vcpu && request == PVTIME_ATTACH)
		error = attach(file->private_data, file, vcpu, &with.attach);
	else if (vcpu)
		error = pvtime_registered(vcpu, &with.registered);
	fdput(vcpu_file);
	if (!error && request == PVTIME_REGISTERED &&
	    copy_to_user((void __user *)argument, &with.registered, sizeof(with.registered)))
		return -EFAULT;
	return error;
}

static ssize_t read(struct file *file, char __user *to, size_t size, loff_t *offset)
{
	return pvtime_read_samples(to, size);
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = open,
	.release = release,
	.mmap = map,
	.unlocked_ioctl = ioctl,
	.read = read,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "pvtime",
	.fops = &operations,
	.mode = 0600,
};

int pvtime_device_init(void)
{
	return misc_register(&device);
}

void pvtime_device_exit(void)
{
	misc_deregister(&device);
}

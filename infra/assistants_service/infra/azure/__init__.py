"""The storage engine on Azure Storage: blobs and queues."""

// A virtual network for private endpoints, and for the calls of API and worker.

@description('Suffix of the resource names.')
param name string

@description('Region.')
param location string

@description('Tags of all resources.')
param tags object

module network 'br/public:avm/res/network/virtual-network:0.7.0' = {
  name: 'virtual-network'
  params: {
    name: 'vnet-${name}'
    location: location
    tags: tags
    addressPrefixes: ['10.60.0.0/16']
    subnets: [
      { name: 'endpoints', addressPrefix: '10.60.0.0/24' }
      { name: 'api', addressPrefix: '10.60.1.0/24', delegation: 'Microsoft.Web/serverFarms' }
      { name: 'worker', addressPrefix: '10.60.2.0/23', delegation: 'Microsoft.App/environments' }
    ]
    enableTelemetry: false
  }
}

module blobZone 'br/public:avm/res/network/private-dns-zone:0.8.1' = {
  name: 'zone-blob'
  params: {
    name: 'privatelink.blob.${environment().suffixes.storage}'
    tags: tags
    virtualNetworkLinks: [{ virtualNetworkResourceId: network.outputs.resourceId }]
    enableTelemetry: false
  }
}

module queueZone 'br/public:avm/res/network/private-dns-zone:0.8.1' = {
  name: 'zone-queue'
  params: {
    name: 'privatelink.queue.${environment().suffixes.storage}'
    tags: tags
    virtualNetworkLinks: [{ virtualNetworkResourceId: network.outputs.resourceId }]
    enableTelemetry: false
  }
}

module vaultZone 'br/public:avm/res/network/private-dns-zone:0.8.1' = {
  name: 'zone-vault'
  params: {
    name: 'privatelink.vaultcore.azure.net'
    tags: tags
    virtualNetworkLinks: [{ virtualNetworkResourceId: network.outputs.resourceId }]
    enableTelemetry: false
  }
}

module openAiZone 'br/public:avm/res/network/private-dns-zone:0.8.1' = {
  name: 'zone-openai'
  params: {
    name: 'privatelink.openai.azure.com'
    tags: tags
    virtualNetworkLinks: [{ virtualNetworkResourceId: network.outputs.resourceId }]
    enableTelemetry: false
  }
}

@description('Subnet for private endpoints.')
output endpointsSubnetId string = network.outputs.subnetResourceIds[0]

@description('Subnet for calls of the API.')
output apiSubnetId string = network.outputs.subnetResourceIds[1]

@description('Subnet for calls of the worker.')
output workerSubnetId string = network.outputs.subnetResourceIds[2]

@description('Private DNS zones by service.')
output zoneIds object = {
  blob: blobZone.outputs.resourceId
  queue: queueZone.outputs.resourceId
  vault: vaultZone.outputs.resourceId
  openai: openAiZone.outputs.resourceId
}

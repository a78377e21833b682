// The storage account: all data of the service. What lies where is told in docs/design.md.

@description('Name of the account.')
param name string

@description('Region.')
param location string

@description('Tags of all resources.')
param tags object

@description('Replication.')
param sku string

@description('Resource id of the workspace that metrics go to.')
param workspaceId string

@description('Public addresses that are allowed in addition to private endpoints.')
param allowedAddresses string[]

@description('Subnet for private endpoints. Empty: the account is reached by its public address.')
param endpointsSubnetId string

@description('Private DNS zones by service.')
param zoneIds object

// As core/assistants_service/core/names.py has them. The service would create what is missing.
var containers = [
  'assistants', 'threads', 'messages', 'runs', 'steps', 'streams', 'snapshots', 'idempotency', 'keys'
  'files', 'uploads', 'contents'
  'vector-stores', 'vector-store-logs', 'vector-store-files', 'vector-store-batches', 'file-stores', 'segments'
]
var queues = ['work', 'work-buried', 'work-poison']

module account 'br/public:avm/res/storage/storage-account:0.32.0' = {
  name: 'account'
  params: {
    name: name
    location: location
    tags: tags
    kind: 'StorageV2'
    skuName: sku
    accessTier: 'Hot'
    allowSharedKeyAccess: false // identities only: no key and no SAS signed by one gets in
    defaultToOAuthAuthentication: true
    allowBlobPublicAccess: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: empty(endpointsSubnetId) || !empty(allowedAddresses) ? 'Enabled' : 'Disabled'
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: empty(endpointsSubnetId) ? 'Allow' : 'Deny'
      ipRules: map(allowedAddresses, address => { action: 'Allow', value: address })
    }
    blobServices: {
      containers: [for container in containers: { name: container, publicAccess: 'None' }]
      // A blob that was deleted or replaced by mistake can be had back for a week; so can what was deleted on purpose.
      // No versioning: append blobs, which the logs are, have no versions of their blocks.
      deleteRetentionPolicyEnabled: true
      deleteRetentionPolicyDays: 7
      containerDeleteRetentionPolicyEnabled: true
      containerDeleteRetentionPolicyDays: 7
    }
    queueServices: {
      queues: [for queue in queues: { name: queue }]
    }
    // As core/assistants_service/core/names.py says (KEPT_DAYS). Deleted threads need no rule: the worker leaves nothing of them.
    managementPolicyRules: [
      {
        name: 'streams'
        enabled: true
        type: 'Lifecycle'
        definition: {
          filters: { blobTypes: ['appendBlob'], prefixMatch: ['streams/'] }
          actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 7 } } }
        }
      }
      {
        name: 'idempotency'
        enabled: true
        type: 'Lifecycle'
        definition: {
          filters: { blobTypes: ['blockBlob'], prefixMatch: ['idempotency/'] }
          actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 2 } } }
        }
      }
    ]
    privateEndpoints: [
      for service in (empty(endpointsSubnetId) ? [] : ['blob', 'queue']): {
        service: service
        subnetResourceId: endpointsSubnetId
        privateDnsZoneGroup: {
          privateDnsZoneGroupConfigs: [{ privateDnsZoneResourceId: zoneIds[service] }]
        }
      }
    ]
    diagnosticSettings: [
      {
        workspaceResourceId: workspaceId
        metricCategories: [{ category: 'Transaction' }]
      }
    ]
    enableTelemetry: false
  }
}

@description('Name of the account.')
output name string = account.outputs.name

@description('Address of its blobs: the setting STORAGE.')
output blobUrl string = 'https://${account.outputs.name}.blob.${environment().suffixes.storage}'

@description('Address of its queues, for the trigger of the Functions worker.')
output queueUrl string = 'https://${account.outputs.name}.queue.${environment().suffixes.storage}'

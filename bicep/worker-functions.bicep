// The worker as an Azure Functions app (Flex Consumption): a queue trigger on `work`. It pays by the run, and scales by
// the queue.

@description('Name of the app.')
param name string

@description('Name of the storage account of the Functions host: its locks, and the app\'s package. Not the service\'s data.')
param hostStorageName string

@description('Region.')
param location string

@description('Tags of all resources.')
param tags object

@description('Resource id of the identity.')
param identityId string

@description('Client id of the identity.')
param identityClientId string

@description('Object id of the identity.')
param servicePrincipalId string

@description('Maximum number of instances, at least 40.')
param instances int

@description('Address of the queues of the service\'s storage account.')
param queueUrl string

@description('Settings by name.')
param settings object

@description('Settings that are secrets in the vault.')
param secretNames string[]

@description('Name of the vault.')
param vaultName string

@description('Resource id of the workspace that logs go to.')
param workspaceId string

@description('Subnet for calls of the app. Empty: no virtual network.')
param subnetId string

@description('Subnet for private endpoints. Empty: the host\'s storage is reached by its public address.')
param endpointsSubnetId string

@description('Private DNS zones by service.')
param zoneIds object

var blobDataOwner = 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
var packages = 'packages'

module hostStorage 'br/public:avm/res/storage/storage-account:0.32.0' = {
  name: 'host-storage'
  params: {
    name: hostStorageName
    location: location
    tags: tags
    kind: 'StorageV2'
    skuName: 'Standard_LRS'
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    allowBlobPublicAccess: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: empty(endpointsSubnetId) ? 'Enabled' : 'Disabled'
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: empty(endpointsSubnetId) ? 'Allow' : 'Deny'
    }
    blobServices: { containers: [{ name: packages, publicAccess: 'None' }] }
    privateEndpoints: [
      for service in (empty(endpointsSubnetId) ? [] : ['blob']): {
        service: service
        subnetResourceId: endpointsSubnetId
        privateDnsZoneGroup: {
          privateDnsZoneGroupConfigs: [{ privateDnsZoneResourceId: zoneIds[service] }]
        }
      }
    ]
    enableTelemetry: false
  }
}

resource hostAccount 'Microsoft.Storage/storageAccounts@2025-06-01' existing = {
  name: hostStorageName
}

// Storage Blob Data Owner on the host's own storage, as the Functions host wants it: leases, keys of the host, package.
resource mayOwnHostStorage 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(hostAccount.id, servicePrincipalId, blobDataOwner)
  scope: hostAccount
  properties: {
    principalId: servicePrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataOwner)
  }
  dependsOn: [hostStorage]
}

module plan 'br/public:avm/res/web/serverfarm:0.7.0' = {
  name: 'worker-plan'
  params: {
    name: 'plan-${name}'
    location: location
    tags: tags
    kind: 'functionapp'
    reserved: true
    skuName: 'FC1'
    zoneRedundant: false
    enableTelemetry: false
  }
}

// Instances execute no code themselves: whether their kernel can confine it is not known, the package has no libraries for
// it, and the next run of a thread goes to any instance. With a session pool, `settings` say otherwise.
var defaults = { CODE_INTERPRETER: 'off' }

var references = toObject(secretNames, secret => secret, secret => '@Microsoft.KeyVault(VaultName=${vaultName};SecretName=${replace(secret, '_', '-')})')

module site 'br/public:avm/res/web/site:0.23.1' = {
  name: 'worker-site'
  params: {
    name: name
    location: location
    tags: union(tags, { 'azd-service-name': 'worker' })
    kind: 'functionapp,linux'
    serverFarmResourceId: plan.outputs.resourceId
    managedIdentities: { userAssignedResourceIds: [identityId] }
    keyVaultAccessIdentityResourceId: identityId
    httpsOnly: true
    clientAffinityEnabled: false
    publicNetworkAccess: 'Enabled'
    virtualNetworkSubnetResourceId: empty(subnetId) ? null : subnetId
    basicPublishingCredentialsPolicies: [
      { name: 'ftp', allow: false }
      { name: 'scm', allow: false }
    ]
    siteConfig: {
      alwaysOn: false
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      ftpsState: 'Disabled'
    }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: 'https://${hostStorage.outputs.name}.blob.${environment().suffixes.storage}/${packages}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      runtime: { name: 'python', version: '3.13' }
      scaleAndConcurrency: { instanceMemoryMB: 2048, maximumInstanceCount: instances }
    }
    configs: [
      {
        name: 'appsettings'
        retainCurrentAppSettings: false // what is not in here is not set
        properties: union(defaults, settings, references, {
          AzureWebJobsStorage__accountName: hostStorage.outputs.name
          AzureWebJobsStorage__credential: 'managedidentity'
          AzureWebJobsStorage__clientId: identityClientId
          // The connection `WORK` of the queue trigger.
          WORK__queueServiceUri: queueUrl
          WORK__credential: 'managedidentity'
          WORK__clientId: identityClientId
        })
      }
    ]
    diagnosticSettings: [
      {
        workspaceResourceId: workspaceId
        logCategoriesAndGroups: [{ category: 'FunctionAppLogs' }]
      }
    ]
    enableTelemetry: false
  }
  dependsOn: [mayOwnHostStorage]
}

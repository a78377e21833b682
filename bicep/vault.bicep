// Key Vault: the API keys of callers and of model providers that have no identity. Settings refer to its secrets.

@description('Name of the vault.')
param name string

@description('Region.')
param location string

@description('Tags of all resources.')
param tags object

@description('API key of the project `default`.')
@secure()
param firstKey string

@description('Resource id of the workspace that the audit log goes to.')
param workspaceId string

@description('Public addresses that are allowed in addition to private endpoints.')
param allowedAddresses string[]

@description('Subnet for the private endpoint. Empty: the vault is reached by its public address.')
param endpointsSubnetId string

@description('Private DNS zones by service.')
param zoneIds object

module vault 'br/public:avm/res/key-vault/vault:0.13.3' = {
  name: 'key-vault'
  params: {
    name: name
    location: location
    tags: tags
    sku: 'standard'
    enableRbacAuthorization: true
    enableVaultForDeployment: false
    enableVaultForTemplateDeployment: false
    enableVaultForDiskEncryption: false
    softDeleteRetentionInDays: 7
    enablePurgeProtection: false // all that is in here can be made anew, and `azd down --purge` should leave nothing
    publicNetworkAccess: empty(endpointsSubnetId) || !empty(allowedAddresses) ? 'Enabled' : 'Disabled'
    networkAcls: {
      bypass: 'AzureServices' // this deployment, which writes the secrets
      defaultAction: empty(endpointsSubnetId) ? 'Allow' : 'Deny'
      ipRules: map(allowedAddresses, address => { value: address })
    }
    secrets: [
      { name: 'first-key', value: firstKey }
      { name: 'API-KEYS', value: 'default:${firstKey}' }
    ]
    privateEndpoints: empty(endpointsSubnetId)
      ? []
      : [
          {
            subnetResourceId: endpointsSubnetId
            privateDnsZoneGroup: {
              privateDnsZoneGroupConfigs: [{ privateDnsZoneResourceId: zoneIds.vault }]
            }
          }
        ]
    diagnosticSettings: [
      {
        workspaceResourceId: workspaceId
        logCategoriesAndGroups: [{ categoryGroup: 'audit' }]
      }
    ]
    enableTelemetry: false
  }
}

@description('Name of the vault.')
output name string = vault.outputs.name

@description('Address of the vault, with a slash at its end.')
output uri string = vault.outputs.uri

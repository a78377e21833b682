// An Azure OpenAI account with a model, and one for embeddings if there is a name for it. Only identities get in.

@description('Name of the account, and of its address.')
param name string

@description('Region.')
param location string

@description('Tags of all resources.')
param tags object

@description('Model, and name of its deployment: what assistants call it.')
param modelName string

@description('Version of the model.')
param modelVersion string

@description('Kind of the deployment.')
param sku string

@description('Thousands of tokens a minute.')
param capacity int

@description('Embedding model, and name of its deployment. Empty: none.')
param embeddingModelName string

@description('Version of the embedding model.')
param embeddingModelVersion string

@description('Thousands of tokens a minute of the embedding model.')
param embeddingModelCapacity int

@description('Resource id of the workspace that metrics go to.')
param workspaceId string

@description('Public addresses that are allowed in addition to private endpoints.')
param allowedAddresses string[]

@description('Subnet for the private endpoint. Empty: the account is reached by its public address.')
param endpointsSubnetId string

@description('Private DNS zones by service.')
param zoneIds object

module account 'br/public:avm/res/cognitive-services/account:0.14.1' = {
  name: 'openai-account'
  params: {
    name: name
    location: location
    tags: tags
    kind: 'OpenAI'
    sku: 'S0'
    customSubDomainName: name
    disableLocalAuth: true
    restrictOutboundNetworkAccess: false
    publicNetworkAccess: empty(endpointsSubnetId) || !empty(allowedAddresses) ? 'Enabled' : 'Disabled'
    networkAcls: {
      defaultAction: empty(endpointsSubnetId) ? 'Allow' : 'Deny'
      ipRules: map(allowedAddresses, address => { value: address })
    }
    deployments: concat(
      [
        {
          name: modelName
          model: { format: 'OpenAI', name: modelName, version: modelVersion }
          sku: { name: sku, capacity: capacity }
        }
      ],
      empty(embeddingModelName)
        ? []
        : [
            {
              name: embeddingModelName
              model: { format: 'OpenAI', name: embeddingModelName, version: embeddingModelVersion }
              sku: { name: sku, capacity: embeddingModelCapacity }
            }
          ]
    )
    privateEndpoints: empty(endpointsSubnetId)
      ? []
      : [
          {
            subnetResourceId: endpointsSubnetId
            privateDnsZoneGroup: {
              privateDnsZoneGroupConfigs: [{ privateDnsZoneResourceId: zoneIds.openai }]
            }
          }
        ]
    diagnosticSettings: [
      {
        workspaceResourceId: workspaceId
        metricCategories: [{ category: 'AllMetrics' }]
        logCategoriesAndGroups: []
      }
    ]
    enableTelemetry: false
  }
}

@description('Name of the account.')
output name string = account.outputs.name

// An Azure OpenAI account with one model. Only identities get in.

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

@description('Resource id of the workspace that metrics go to.')
param workspaceId string

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
    publicNetworkAccess: empty(endpointsSubnetId) ? 'Enabled' : 'Disabled'
    networkAcls: { defaultAction: empty(endpointsSubnetId) ? 'Allow' : 'Deny' }
    deployments: [
      {
        name: modelName
        model: { format: 'OpenAI', name: modelName, version: modelVersion }
        sku: { name: sku, capacity: capacity }
      }
    ]
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

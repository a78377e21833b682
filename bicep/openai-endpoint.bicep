// A private endpoint, in this network, of an Azure OpenAI account that was there before. The account's own firewall is
// left as it is. Who deploys needs the right to approve the connection (Contributor on the account is enough).

@description('Suffix of the resource names.')
param name string

@description('Region.')
param location string

@description('Tags of all resources.')
param tags object

@description('Resource id of the account.')
param accountId string

@description('Subnet for private endpoints.')
param endpointsSubnetId string

@description('Private DNS zones by service.')
param zoneIds object

resource endpoint 'Microsoft.Network/privateEndpoints@2024-05-01' = {
  name: 'pe-openai-${name}'
  location: location
  tags: tags
  properties: {
    subnet: { id: endpointsSubnetId }
    privateLinkServiceConnections: [
      {
        name: 'openai'
        properties: { privateLinkServiceId: accountId, groupIds: ['account'] }
      }
    ]
  }
}

resource address 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2024-05-01' = {
  parent: endpoint
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [{ name: 'openai', properties: { privateDnsZoneId: zoneIds.openai } }]
  }
}

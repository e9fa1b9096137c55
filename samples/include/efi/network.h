/* Network interfaces (UEFI 2.10, chapter 24). */
#ifndef EFI_NETWORK_H
#define EFI_NETWORK_H

#include "types.h"

/* 24.1: the simple network protocol. */
#define EFI_SIMPLE_NETWORK_PROTOCOL_GUID \
    { 0xa19832b9, 0xac25, 0x11d3, { 0x9a, 0x2d, 0x00, 0x90, 0x27, 0x3f, 0xc1, 0x4d } }
#define EFI_SIMPLE_NETWORK_RECEIVE_UNICAST 0x01
#define EFI_SIMPLE_NETWORK_RECEIVE_MULTICAST 0x02
#define EFI_SIMPLE_NETWORK_RECEIVE_BROADCAST 0x04
#define EFI_SIMPLE_NETWORK_RECEIVE_INTERRUPT 0x01
#define MAX_MCAST_FILTER_CNT 16
typedef enum { EfiSimpleNetworkStopped, EfiSimpleNetworkStarted, EfiSimpleNetworkInitialized } EFI_SIMPLE_NETWORK_STATE;
typedef struct {
    UINT8 Addr[32];
} EFI_MAC_ADDRESS;
typedef struct {
    UINT8 Addr[16];
} EFI_IP_ADDRESS;
typedef struct {
    UINT32 State, HwAddressSize, MediaHeaderSize, MaxPacketSize, NvRamSize, NvRamAccessSize;
    UINT32 ReceiveFilterMask, ReceiveFilterSetting, MaxMCastFilterCount, MCastFilterCount;
    EFI_MAC_ADDRESS MCastFilter[MAX_MCAST_FILTER_CNT];
    EFI_MAC_ADDRESS CurrentAddress, BroadcastAddress, PermanentAddress;
    UINT8 IfType;
    BOOLEAN MacAddressChangeable, MultipleTxSupported, MediaPresentSupported, MediaPresent;
} EFI_SIMPLE_NETWORK_MODE;
typedef struct {
    UINT64 RxTotalFrames, RxGoodFrames, RxUndersizeFrames, RxOversizeFrames, RxDroppedFrames, RxUnicastFrames;
    UINT64 RxBroadcastFrames, RxMulticastFrames, RxCrcErrorFrames, RxTotalBytes;
    UINT64 TxTotalFrames, TxGoodFrames, TxUndersizeFrames, TxOversizeFrames, TxDroppedFrames, TxUnicastFrames;
    UINT64 TxBroadcastFrames, TxMulticastFrames, TxCrcErrorFrames, TxTotalBytes;
    UINT64 Collisions, UnsupportedProtocol, RxDuplicatedFrames, RxDecryptErrorFrames, TxErrorFrames, TxRetryFrames;
} EFI_NETWORK_STATISTICS;
typedef struct EFI_SIMPLE_NETWORK_PROTOCOL EFI_SIMPLE_NETWORK_PROTOCOL;
struct EFI_SIMPLE_NETWORK_PROTOCOL {
    UINT64 Revision;
    EFI_STATUS (*Start)(EFI_SIMPLE_NETWORK_PROTOCOL *This);
    EFI_STATUS (*Stop)(EFI_SIMPLE_NETWORK_PROTOCOL *This);
    EFI_STATUS (*Initialize)(EFI_SIMPLE_NETWORK_PROTOCOL *This, UINTN ExtraRxBufferSize, UINTN ExtraTxBufferSize);
    EFI_STATUS (*Reset)(EFI_SIMPLE_NETWORK_PROTOCOL *This, BOOLEAN ExtendedVerification);
    EFI_STATUS (*Shutdown)(EFI_SIMPLE_NETWORK_PROTOCOL *This);
    EFI_STATUS (*ReceiveFilters)(EFI_SIMPLE_NETWORK_PROTOCOL *This, UINT32 Enable, UINT32 Disable,
                                 BOOLEAN ResetMCastFilter, UINTN MCastFilterCnt, EFI_MAC_ADDRESS *MCastFilter);
    EFI_STATUS (*StationAddress)(EFI_SIMPLE_NETWORK_PROTOCOL *This, BOOLEAN Reset, EFI_MAC_ADDRESS *New);
    EFI_STATUS (*Statistics)(EFI_SIMPLE_NETWORK_PROTOCOL *This, BOOLEAN Reset, UINTN *StatisticsSize,
                             EFI_NETWORK_STATISTICS *StatisticsTable);
    EFI_STATUS (*MCastIpToMac)(EFI_SIMPLE_NETWORK_PROTOCOL *This, BOOLEAN IPv6, EFI_IP_ADDRESS *IP,
                               EFI_MAC_ADDRESS *MAC);
    EFI_STATUS (*NvData)(EFI_SIMPLE_NETWORK_PROTOCOL *This, BOOLEAN ReadWrite, UINTN Offset, UINTN BufferSize,
                         void *Buffer);
    EFI_STATUS (*GetStatus)(EFI_SIMPLE_NETWORK_PROTOCOL *This, UINT32 *InterruptStatus, void **TxBuf);
    EFI_STATUS (*Transmit)(EFI_SIMPLE_NETWORK_PROTOCOL *This, UINTN HeaderSize, UINTN BufferSize, void *Buffer,
                           EFI_MAC_ADDRESS *SrcAddr, EFI_MAC_ADDRESS *DestAddr, UINT16 *Protocol);
    EFI_STATUS (*Receive)(EFI_SIMPLE_NETWORK_PROTOCOL *This, UINTN *HeaderSize, UINTN *BufferSize, void *Buffer,
                          EFI_MAC_ADDRESS *SrcAddr, EFI_MAC_ADDRESS *DestAddr, UINT16 *Protocol);
    EFI_EVENT WaitForPacket;
    EFI_SIMPLE_NETWORK_MODE *Mode;
};

#endif
